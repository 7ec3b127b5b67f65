"""Pages and figures about finished runs."""
