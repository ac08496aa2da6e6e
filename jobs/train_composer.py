"""Up to a trained composer: ingest, decompose, composer.

ray job submit --working-dir . -- python jobs/train_composer.py --recipe NAME --run s3://BUCKET/runs/NAME
"""

from job import submit

if __name__ == "__main__":
    submit(until="composer")
