"""Runners: prepare -> predict -> restore, one per family of models.

``nnunet`` keeps nnU-Net's own preprocessing and export geometry and calls the network itself through a backend.  A
package names its runner and the intensity function from closed lists; nothing else can be asked for.
"""
