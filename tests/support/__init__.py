"""What several tests need: clusters, small models."""
