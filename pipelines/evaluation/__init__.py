"""Metrics, significance and calibration: is it skill, and would we know?"""
