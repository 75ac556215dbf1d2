"""Settings of the server: where it listens, what it takes at most, how long it waits."""

from __future__ import annotations

from trialese.settings.section import Count, Section

__all__ = ["ServeSettings"]


class ServeSettings(Section, frozen=True, kw_only=True):
    """Page and API."""

    host: str = "127.0.0.1"
    port: int = 8000
    """0: any free one."""
    body_bytes: Count = 2_000_000
    """Larger requests are refused; uploads of jobs have their own limit."""
    request_texts: Count = 256
    """At most so many texts, trials or NCT ids in one request."""
    batch_texts: Count = 32
    """At most so many texts, of however many requests, go through a model at once."""
    queue_texts: Count = 2048
    """Requests are refused while more texts than these wait for a model."""
    queue_explanations: Count = 16
    """Likewise for explanations, each of which takes as long as dozens of predictions."""
    requests: Count = 512
    """At most so many requests under way."""
    request_seconds: float = 30.0
    """A request that waits longer is given up."""
    drain_seconds: Count = 30
    """At the end, requests under way have so long to finish."""
    upload_bytes: Count = 2_000_000_000
    """Of one file to be labelled as a job."""
    waiting_jobs: Count = 100
    """Jobs are refused while so many wait."""
    live: bool = False
    """Ask the registry for trials that the snapshot lacks."""
