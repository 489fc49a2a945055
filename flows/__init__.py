"""When and where the pipeline runs: Prefect flows over the stages."""
