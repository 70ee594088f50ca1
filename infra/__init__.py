"""Where the product meets machines."""
