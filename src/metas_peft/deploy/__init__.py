"""A finished run on a device that it has never seen: five measurements, the best member inside the budgets, verified.

budgets     what may be spent
candidates  what can be cut from the run's folder, and how good it is expected to be
choosing    the best candidate predicted inside the budgets, or what to relax
sources     who measures: a device that is open here, or records that a person brings
walk        all of it in order, and the folder that comes out
"""

from metas_peft.deploy.walk import Deployment, Request, deploy, write_plan

__all__ = ["Deployment", "Request", "deploy", "write_plan"]
