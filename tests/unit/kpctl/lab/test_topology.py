"""Tests of kpctl.lab.topology: the plan of hosts, wires and addresses is consistent."""

import ipaddress

from kpctl.lab import topology


def test_every_link_joins_two_hosts_of_the_lab():
    for role, commands in topology.link_commands("kpctl-x-").items():
        assert role in topology.ROLES
        for command in commands:
            if " netns " in command:
                assert command.rpartition(" netns kpctl-x-")[2] in topology.ROLES


def test_every_host_but_the_underlay_gets_exactly_one_link_named_eth0():
    peers = [
        command.rpartition(" netns p-")[2]
        for commands in topology.link_commands("p-").values()
        for command in commands
        if "peer name eth0" in command
    ]
    assert sorted(peers) == sorted(set(topology.ROLES) - {topology.UNDERLAY})


def test_every_host_is_configured():
    assert set(topology.address_commands()) == set(topology.ROLES)


def test_device_names_fit_the_kernels_15_characters():
    assert all(len(role) <= 15 for role in topology.ROLES)


def test_pods_have_addresses_of_their_nodes_networks_within_the_cluster():
    nodes = {node.name: node for node in topology.NODES}
    for pod in topology.PODS:
        for index, address in enumerate((pod.ipv4, pod.ipv6)):
            network = ipaddress.ip_network(nodes[pod.node].pod_cidrs[index])
            assert ipaddress.ip_address(address) in network
            assert network.subnet_of(ipaddress.ip_network(topology.CLUSTER_CIDRS[index]))


def test_no_address_is_given_twice():
    addresses = [a for pod in topology.PODS for a in (pod.ipv4, pod.ipv6)]
    for node in topology.NODES:
        addresses += [node.ipv4, node.ipv6, *node.pod_gateways]
    addresses += [topology.CLIENT_ADDRESS, topology.STRANGER_ADDRESS, topology.CLIENT_ADDRESS_V6]
    assert len(addresses) == len(set(addresses))


def test_pods_run_on_both_nodes():
    assert {pod.node for pod in topology.PODS if pod.serves} == {"node-1", "node-2"}
