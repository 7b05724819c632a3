"""Pictures of graphs: the walk, the data, folding, layout, and one module per format."""
