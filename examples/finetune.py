"""From chest X-rays of several patients to a certified adapter and synthetic images, in Python.

Needs `xrays.parquet` (columns image, finding, patient_id) and a public model of the same two classes in
`runs/public-xrays`, made by `dp-diffusers pretrain` or any diffusers folder with a `UNet2DModel`.
"""

from peft import LoraConfig

import dp_diffusers as dpd

data = dpd.PrivateImages.from_parquet(
    "xrays.parquet", label="finding", unit="patient_id", classes=["normal", "pneumonia"], size=64, channels=1
)
budget = dpd.Budget(epsilon=1.0, delta=1e-6, unit="patient_id")
plan = dpd.Plan.calibrate(budget, dpd.DPSGD(steps=500, expected_units=500, population=5_000))
print(plan.explain())
strategy = LoraConfig(r=8, target_modules=["to_q", "to_k", "to_v", "to_out.0"])
release = dpd.finetune(
    "runs/public-xrays", data, plan, out="runs/xrays", ledger="xrays.parquet.ledger", strategy=strategy
)
images = dpd.generate(release, per_label=5_000, out="synthetic-xrays")
print(dpd.Certificate.verify(release.path))
