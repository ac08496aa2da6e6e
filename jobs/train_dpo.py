"""One DPO round's training, on the pairs that the run has made.

ray job submit --working-dir . -- python jobs/train_dpo.py --recipe NAME --run s3://BUCKET/runs/NAME
"""

from job import submit

if __name__ == "__main__":
    submit(only="dpo", in_round=True)
