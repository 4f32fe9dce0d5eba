"""Sequences with boxes: COCO and CrowdHuman as sequences of one picture, LaSOT, TrackingNet, GOT-10k, OTB-100, and
MOT16, MOT17, MOT20."""
