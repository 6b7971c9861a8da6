"""What a running proxy shows: health, metrics, logs, events, HTTP."""
