"""
Removal of what a node proxy left in the kernel, whichever mode it ran in and whoever made it.

A node that changes its mode, or is cleaned up, holds tables, chains, jumps, virtual servers, sets
and a device that nobody keeps up to date any more. These modules find what is kube-proxy's by name
(kpctl uses the same names) and remove that, and nothing of anybody else.
"""
