"""Segmentation of whole volumes."""
