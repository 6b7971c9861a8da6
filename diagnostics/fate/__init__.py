"""What becomes of calls to every frontend, and how that differs between two nodes or states."""
