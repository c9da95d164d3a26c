"""Golden values of torch.optim.AdamW for tests/distill: python adamw.py > adamw.json"""
import json
import torch

torch.manual_seed(3)
STEPS, SIZE = 5, 37
cases = []
for beta2, weight_decay in [(0.95, 0.0), (0.999, 0.1)]:
    p = torch.nn.Parameter(torch.randn(SIZE))
    case = {"learning_rate": 1e-2, "beta1": 0.9, "beta2": beta2, "epsilon": 1e-8,
            "weight_decay": weight_decay, "start": p.tolist(), "gradients": []}
    opt = torch.optim.AdamW([p], lr=1e-2, betas=(0.9, beta2), eps=1e-8, weight_decay=weight_decay)
    for i in range(STEPS):
        p.grad = torch.randn(SIZE) * 10.0 ** (i - 3)
        case["gradients"].append(p.grad.tolist())
        opt.step()
    case["end"] = p.tolist()
    cases.append(case)
print(json.dumps(cases))
