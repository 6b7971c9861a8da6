"""The virtual servers of a node with the names of who is behind them."""
