"""Core ML packages from Linux: conversion, compression, a planner, and an interpreter that runs what was saved."""
