"""The HTTP that services serve: health, metrics, status, and the controller's requests."""
