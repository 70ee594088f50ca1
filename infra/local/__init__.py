"""The loopback stack: two regions, a witness and the links between them."""
