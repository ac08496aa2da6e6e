"""Up to the SFT model.

ray job submit --working-dir . -- python jobs/train_sft.py --recipe NAME --run s3://BUCKET/runs/NAME
"""

from job import submit

if __name__ == "__main__":
    submit(until="sft")
