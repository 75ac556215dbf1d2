"""Registry records in, Snapshot out."""
