"""The table of the authors' own benchmark, and how the algorithms are called in print."""

from __future__ import annotations

TITLES = {
    "ippo": "IPPO",
    "ccppo_concat": "CCPPO concat",
    "ccppo_mean_field": "CCPPO mean field",
    "curriculum": "CL",
    "copo": "CoPO",
}

# Training success rate in %, mean (std) over 8 seeds, as the authors measured it anew for MetaDrive 0.2.5 in 2022,
# after the paper: benchmarks/MetaDrive-0.2.5 in github.com/decisionforce/CoPO.
PUBLISHED: dict[str, dict[str, str]] = {
    "bottleneck": {
        "IPPO": "24.0 (18.7)",
        "CCPPO concat": "19.6 (15.8)",
        "CCPPO mean field": "14.6 (11.2)",
        "CL": "60.6 (22.2)",
        "CoPO": "47.4 (19.5)",
    },
    "tollgate": {
        "IPPO": "4.4 (2.6)",
        "CCPPO concat": "3.5 (1.9)",
        "CCPPO mean field": "14.9 (16.5)",
        "CL": "37.3 (30.7)",
        "CoPO": "27.2 (25.6)",
    },
    "intersection": {
        "IPPO": "71.9 (5.3)",
        "CCPPO concat": "75.7 (3.2)",
        "CCPPO mean field": "70.8 (6.3)",
        "CL": "75.7 (6.2)",
        "CoPO": "79.5 (5.0)",
    },
    "roundabout": {
        "IPPO": "66.4 (5.0)",
        "CCPPO concat": "67.8 (4.1)",
        "CCPPO mean field": "71.0 (5.5)",
        "CL": "72.3 (5.5)",
        "CoPO": "72.8 (6.7)",
    },
    "parking_lot": {
        "IPPO": "17.0 (5.9)",
        "CCPPO concat": "12.0 (7.5)",
        "CCPPO mean field": "20.7 (3.5)",
        "CL": "21.3 (10.2)",
        "CoPO": "19.5 (5.6)",
    },
    "pg_map": {
        "IPPO": "81.8 (6.5)",
        "CCPPO concat": "80.2 (3.6)",
        "CCPPO mean field": "79.6 (3.9)",
        "CL": "71.2 (23.7)",
        "CoPO": "83.4 (3.1)",
    },
}
PUBLISHED_COLUMN = "authors (1M steps, MetaDrive 0.2.5), %"
PUBLISHED_LABEL = "best 100 episodes after 1,000,000 env steps (CL: 2,000,000) in MetaDrive 0.2.5, 8 seeds"


def title(algorithm: str) -> str:
    """The algorithm's name in print."""
    return TITLES.get(algorithm, algorithm)


def published(scene: str, algorithm: str) -> str:
    """The authors' number for a cell, "-" where they have none."""
    return PUBLISHED.get(scene, {}).get(title(algorithm), "-")
