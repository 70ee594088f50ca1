"""HTTP clients: grants, webhooks, schema registries."""
