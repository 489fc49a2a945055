"""The market an agent trades in: one account, its environments, markets whose optimum is known.

Importing it registers the environments with gymnasium and nothing else, so that it stays cheap.
"""

from gymnasium.envs.registration import register, registry

for _name, _module in (("Trading", "env"), ("Execution", "env_known"), ("LinearQuadratic", "env_known")):
    if f"rehearsal/{_name}-v0" not in registry:
        register(
            id=f"rehearsal/{_name}-v0",
            entry_point=f"pipelines.market.{_module}:{_name}Env",
            vector_entry_point=f"pipelines.market.{_module}:{_name}VectorEnv",
        )
