"""Reading every node of a cluster through the Kubernetes API: its proxy's pod, or one of ours."""
