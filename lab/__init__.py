"""The Tuning Lab: measure, compare and decide how to serve multimodal models per tenant.

Importing the package does no work and pulls in nothing heavy; import the module you need.
"""

__version__ = "0.1.0"
