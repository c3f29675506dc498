"""The data sheets of the scenes, docs/scenes: `python -m benchmarks.scene_sheets` makes them.

Numbers come from the registry, the spaces and MetaDrive's own configuration; what cannot be read there is in `prose`.
"""
