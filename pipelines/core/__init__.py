"""Pure decisions: state and now in, decision and reason out."""
