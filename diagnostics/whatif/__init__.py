"""What would change for whom if API objects changed."""
