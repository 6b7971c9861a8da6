"""
Plays the flow scenarios of tests/data/flows with real packets against a running proxy.

scenario.py reads them; site.py lays out the network; probes.py sends and receives, with
attempts.py, sockets.py, icmp.py and sctp.py below it; judge.py compares; play.py runs the stages;
daemon.py is the proxy under test.
"""
