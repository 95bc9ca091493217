"""The demonstration: synthetic but anatomically believable head studies, sent along the whole road.

For whom: somebody who has just installed the node and wants to see it work before a real patient comes near it, and the
tests.  The heads are formulas (`ai_engine.phantom`); what is found in them says nothing about accuracy on patients.

`make_study` writes a study as DICOM Part 10 files (MR Image Storage, PS3.3 A.4); `run_demo` starts an Orthanc and a
node of its own, sends three studies and shows what becomes of each; `send_folder` sends files that are already there.
"""

from dicom_node.demo.study import DemoStudy, Fate, make_study

__all__ = ["DemoStudy", "Fate", "make_study"]
