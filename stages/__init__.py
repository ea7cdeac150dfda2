"""tristyle: a mobile portrait stylizer in three stages (see README.md)."""

import os

# Nothing phones home. These are read when a library is imported, so they are set before any of them is.
for _name, _value in {
    "ORT_DISABLE_TELEMETRY": "1",  # onnxruntime: a device id and a queue of events below HOME, sent after seconds
    "DO_NOT_TRACK": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_OFFLINE": "1",
    "WANDB_ERROR_REPORTING": "false",
}.items():
    os.environ[_name] = _value
