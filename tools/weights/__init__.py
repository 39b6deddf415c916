"""Further pretrained weights: how to take them out of packages in other formats."""
