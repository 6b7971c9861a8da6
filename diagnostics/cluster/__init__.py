"""What the API says of the cluster, as a proxy and people read it."""
