"""A node, its pods and a client out of network namespaces: a node proxy without a cluster."""
