import sys, time, os, glob, math, random, copy, json
os.environ.setdefault("OMP_NUM_THREADS","1")
import torch, torch.nn.functional as F
torch.set_num_threads(1)
from roi_fusion.core.lesion_reader import LesionReader
out=sys.argv[1]; minutes=float(sys.argv[2]); lr0=float(sys.argv[3]) if len(sys.argv)>3 else 1.5e-3
start=sys.argv[4] if len(sys.argv)>4 else None
os.makedirs(out,exist_ok=True)
torch.manual_seed(0); random.seed(0)
net=LesionReader((16,32,64,128)); 
if start: net.load_state_dict(torch.load(start)["net"])
ema=copy.deepcopy(net).eval()
opt=torch.optim.AdamW(net.parameters(),lr=lr0,weight_decay=0.01)
views={}; 
def refresh():
    for f in sorted(glob.glob("training/reader/views/*.pt")):
        if f not in views:
            try: v,y,i=torch.load(f)
            except Exception: continue
            views[f]=[v,y,i,0]
def val_views(): return [torch.load(f) for f in sorted(glob.glob("training/reader/val/*.pt"))]
def augment(v,y):
    v=v.float(); y=y.float()
    if random.random()<.5:   # left to right: the reflection flips with it; in sagittal slices it is another axis, still a valid head
        v=v.flip(1); y=y.flip(1)
    mri=(v[3]>0)
    if mri.any() and random.random()<.7:
        s=math.exp(random.gauss(0,.15)); b=random.gauss(0,.15); g=random.gauss(0,.12)
        for c,w in ((0,3),(5,8)):
            m=v[w]>0; x=v[c]
            v[c]=torch.where(m,(s*x+b+g*x.clamp(-2.5,2.5)**2-g),x)
    if random.random()<.3:
        v[0]+=random.uniform(0,.25)*torch.randn_like(v[0])*(v[3]>0)
    if v.shape[3]>12 and random.random()<.12:
        n=random.randint(8,v.shape[3]-1); a=random.randint(0,v.shape[3]-n); v=v[...,a:a+n]; y=y[...,a:a+n]
    return v,y
def batch():
    keys=list(views); w=[1/(1+views[k][3])**2 for k in keys]
    ks=random.choices(keys,w,k=2)
    items=[]
    for k in ks:
        views[k][3]+=1; items.append(augment(views[k][0],views[k][1]))
    size=[max(a[0].shape[d] for a in items) for d in (1,2,3)]
    pad=lambda t:F.pad(t,[0,size[2]-t.shape[3],0,size[1]-t.shape[2],0,size[0]-t.shape[1]])
    return torch.stack([pad(a) for a,_ in items]), torch.stack([pad(b) for _,b in items])
def loss_of(logit,y):
    t,brain=y[:,:1],(y[:,1:]>0.02).float()
    w=(brain+.1)
    ce=F.binary_cross_entropy_with_logits(logit,t,reduction="none")
    ce=(ce*w).flatten(1).sum(1)/w.flatten(1).sum(1)
    p=torch.sigmoid(logit)
    inter=(p*t).flatten(1).sum(1); both=(p+t).flatten(1).sum(1)
    dice=1-(2*inter+4)/(both+4)
    return ce, dice
def validate(m):
    rows={}; 
    with torch.no_grad():
        for v,y,i in vals:
            p=torch.sigmoid(m(v[None].float()))[0,0]; t=y[0].float()>.5; q=p>.4
            key=i["contrast"] if i["missing"]!="mri" else "ct"
            if t.sum()==0: rows.setdefault("false",[]).append(float(q.sum())); continue
            rows.setdefault(key,[]).append(float(2*(q&t).sum()/(q.sum()+t.sum())))
            rows.setdefault("all",[]).append(rows[key][-1])
    return {k:round(sum(a)/len(a),3) for k,a in rows.items()}
refresh(); vals=val_views(); t0=time.time(); step=0; avg=None; tv=time.time()
while True:
    frac=(time.time()-t0)/60/minutes
    if frac>=1: break
    for g in opt.param_groups: g["lr"]=lr0*min(1,(step+1)/60)*(0.5*(1+math.cos(math.pi*frac))+1e-3)
    x,y=batch()
    fine,half=net.deep(x)
    ce,di=loss_of(fine,y)
    n=list(half.shape[2:]); ce2,di2=loss_of(half,F.adaptive_avg_pool3d(y,n))
    loss=(2*ce+di).mean()+.4*(2*ce2+di2).mean()
    opt.zero_grad(); loss.backward(); torch.nn.utils.clip_grad_norm_(net.parameters(),5.0); opt.step(); step+=1
    d=min(.998,(1+step)/(10+step))
    with torch.no_grad():
        for a,b in zip(ema.parameters(),net.parameters()): a.lerp_(b,1-d)
    now=torch.tensor([ce.mean(),di.mean()]); avg=now if avg is None else .97*avg+.03*now
    if step%20==0: refresh()
    if step%25==0: print(step,f"{(time.time()-t0)/60:.1f}min views {len(views)} ce {avg[0]:.4f} dice {avg[1]:.3f} {(time.time()-t0)/step:.2f}s/step",flush=True)
    if time.time()-tv>480 or step in(50,):
        tv=time.time(); vals=val_views(); print("VAL",step,json.dumps(validate(ema)),flush=True)
        torch.save(dict(net=net.state_dict(),ema=ema.state_dict(),opt=opt.state_dict(),step=step),out+"/last.pt")
print("VAL end",step,json.dumps(validate(ema)),flush=True)
torch.save(dict(net=net.state_dict(),ema=ema.state_dict(),step=step),out+"/final.pt")
