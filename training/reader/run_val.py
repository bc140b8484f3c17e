import sys, torch, os
sys.path.insert(0,"training/reader")
import paint
p=paint.Painter(77,["14","15"],part="val",pool=1,uses=1.0)
p.lesions=paint.choose_lesions(paint.S+"soop_lesions.npz",None,"val")
os.makedirs("training/reader/val",exist_ok=True)
for n in range(48):
    p.pool=[]
    v,y,i=p(); torch.save((v.clone(),y.clone(),i),f"training/reader/val/{n:03d}.pt"); print(n,i,flush=True)
