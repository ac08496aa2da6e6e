"""Up to judged responses.

ray job submit --working-dir . -- python jobs/synthesize.py --recipe NAME --run s3://BUCKET/runs/NAME
"""

from job import submit

if __name__ == "__main__":
    submit(until="synthesize")
