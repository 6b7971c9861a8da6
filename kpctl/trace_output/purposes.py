"""What hooks and chains are for, in plain sentences for people who do not know netfilter."""

from __future__ import annotations

HOOKS = {
    "prerouting": "PREROUTING: the packet has just come in. Before the kernel decides where it "
    "goes, rules may give it another destination (DNAT); that is how a Service's address becomes "
    "an endpoint's.",
    "routing": "ROUTING: by the destination that the packet has now, the kernel decides whether "
    "it is for this node itself or leaves again, and through which device.",
    "input": "INPUT: the packet is for this node. Rules may refuse it; IPVS takes packets for its "
    "virtual servers out here.",
    "forward": "FORWARD: the packet only passes through this node, to a pod or to another host. "
    "Rules may refuse it.",
    "output": "OUTPUT: the packet was made on this node (or is sent on by IPVS). For the node's "
    "own packets this is where a Service's address becomes an endpoint's.",
    "postrouting": "POSTROUTING: the packet is about to leave. Rules may give it another source "
    "(masquerading), so that the answer comes back through this node.",
}

# By the beginning of their names; the first that fits counts.
_CHAINS = (
    ("KUBE-SERVICES", "has a rule for every address of every Service"),
    ("KUBE-NODEPORTS", "has a rule for every port that Services have on the nodes' own addresses"),
    ("KUBE-NODE-PORT", "knows the ports that Services have on the nodes' own addresses"),
    (
        "KUBE-EXTERNAL-SERVICES",
        "refuses calls from outside to Services that have nobody to answer them",
    ),
    ("KUBE-SVC-", "chooses one of a Service's endpoints in the whole cluster"),
    ("KUBE-SVL-", "chooses one of a Service's endpoints on this node"),
    ("KUBE-EXT-", "decides what calls from outside the cluster to a Service need"),
    ("KUBE-FW-", "lets in only the clients that a Service's source ranges name"),
    ("KUBE-SEP-", "stands for one endpoint: it gives the packet that endpoint's address"),
    (
        "KUBE-MARK-MASQ",
        "marks packets whose source address must be replaced, so that the answer comes back here",
    ),
    ("KUBE-POSTROUTING", "replaces the source address of packets that were marked for it"),
    ("KUBE-FORWARD", "lets packets of Services pass, whatever other rules say later"),
    ("KUBE-PROXY-FIREWALL", "drops packets that a Service's source ranges do not let in"),
    ("KUBE-FIREWALL", "drops packets that should never be seen on a node; the kubelet's"),
    ("KUBE-IPVS-", "refuses packets to Service addresses under ports that no Service has"),
    ("KUBE-LOAD-BALANCER", "decides what calls to a load balancer's address need"),
    ("filter-prerouting", "asks, before any translation, whether a client may call a Service"),
    ("firewall-check", "asks whether source ranges protect this address and port"),
    ("nat-prerouting", "is where packets that came in are translated"),
    ("nat-output", "is where packets of this node are translated"),
    ("nat-postrouting", "is where packets that leave get another source"),
    ("services", "looks the packet's destination up in a map of all Services"),
    ("service-endpoints-check", "refuses calls to Services that have nobody to answer them"),
    ("nodeport-endpoints-check", "the same for ports on the nodes' own addresses"),
    ("cluster-ips-check", "refuses calls to addresses and ports that no Service has"),
    ("masquerading", "replaces the source address of packets that were marked for it"),
    ("mark-for-masquerade", "marks packets whose source address must be replaced"),
    ("service-", "chooses one of a Service's endpoints"),
    ("external-", "decides what calls from outside the cluster to a Service need"),
    ("endpoint-", "stands for one endpoint: it gives the packet that endpoint's address"),
    ("sticky-", "sends a client to the endpoint it had before, if it had one"),
    ("affinity-learn", "remembers which endpoint a client got"),
    ("cluster-ip-", "marks clients outside the cluster, then chooses an endpoint"),
    ("local-lb-", "chooses one of a Service's endpoints on this node"),
    ("nodeport-lb-", "chooses one of a Service's endpoints for a port on the node"),
    ("lb-", "chooses one of a Service's endpoints"),
    ("reject-chain", "tells the client at once that nobody answers"),
)


def purpose(chain: str) -> str:
    """Return what a proxy's chain is for, as the rest of a sentence; "" for others."""
    return next((said for begin, said in _CHAINS if chain.startswith(begin)), "")
