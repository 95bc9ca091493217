"""The stages of the road: read, assemble, infer, write, deliver; and what each is handed (`context`).

Each stage ties rooms to the record; `dicom_node.road` says in which order and on which queue they run.
"""
