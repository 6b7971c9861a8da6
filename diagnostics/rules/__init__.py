"""How many rules a node has and for whom, which of them do nothing, and how many there will be."""
