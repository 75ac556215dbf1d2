"""Classifiers in, page and API out. The only room that knows the web framework."""

from __future__ import annotations

from trialese.web.app import create_app
from trialese.web.served import Served, ServedModel, open_served
from trialese.web.server import serve

__all__ = ["Served", "ServedModel", "create_app", "open_served", "serve"]
