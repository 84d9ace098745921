import time


def hello(ctx, payload):
    from orchestrator.training.config import OptimizerConfig, EngineConfig
    from tests.support.toy import toy_model

    a = time.time()
    e = ctx.build_engine(toy_model(), OptimizerConfig(), EngineConfig(type="zero"))
    b = time.time() - a
    ctx.emit({"event": "built"})
    time.sleep(payload["sleep"])
    return {"rank": ctx.rank, "world": ctx.world, "build": b}
