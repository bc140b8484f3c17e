import sys, time, torch, os
sys.path.insert(0,"training/reader")
from paint import Painter
seed=int(sys.argv[1]); n=0
p=Painter(seed,None,pool=110)
while True:
    try: v,y,i=p()
    except Exception as e:
        print("failed:",type(e).__name__,e,flush=True); continue
    f=f"training/reader/views/{seed}_{n:05d}.pt"; torch.save((v.clone(),y.clone(),i),f+".tmp"); os.replace(f+".tmp",f); n+=1
