"""Write the pages in docs/: pictures of blocks, tables of networks, results and experiments."""
