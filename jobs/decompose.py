"""Prompts → constraints: ingest and decompose.

ray job submit --working-dir . -- python jobs/decompose.py --recipe NAME --run s3://BUCKET/runs/NAME
"""

from job import submit

if __name__ == "__main__":
    submit(until="decompose")
