"""What pictures from above are made of: colours, shapes, the road, the legend, and who is followed."""
