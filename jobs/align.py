"""The whole run: data, SFT, every round of synthesis and DPO, the final model.

ray job submit --working-dir . -- python jobs/align.py --recipe NAME --run s3://BUCKET/runs/NAME
"""

from job import submit

if __name__ == "__main__":
    submit(until="")
