"""What ``kpctl conntrack`` does beyond reading: asks, prints, deletes and sets."""
