"""Text that node tools print → frozen values; one bad line costs only itself."""
