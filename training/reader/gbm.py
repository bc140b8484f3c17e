import sys,glob,torch,numpy as np,time,json,pickle
sys.path.insert(0,"training/reader")
from feats import features
from sklearn.ensemble import HistGradientBoostingClassifier as H
d=[np.load(f"training/reader/feat{p}.npz") for p in (0,1)]
X=np.concatenate([a["X"] for a in d]).astype(np.float32); Y=np.concatenate([a["Y"] for a in d])>.5; W=np.concatenate([a["W"] for a in d])
W=np.minimum(W,60)**.5
print(X.shape,Y.mean(),flush=True)
t=time.time(); m=H(max_iter=int(sys.argv[1]),max_leaf_nodes=63,learning_rate=.12,min_samples_leaf=100,l2_regularization=1.0,max_bins=128,random_state=0).fit(X,Y,sample_weight=W); print("fit",time.time()-t,flush=True)
pickle.dump(m,open("training/reader/gbm.pkl","wb"))
res=[]
for f in sorted(glob.glob("training/reader/val/*.pt")):
    v,y,i=torch.load(f); v,y=v.float(),y.float(); sz=max(i["sp"][2],4.0) 
    fe,g=features(v,sz); b=((v[3]>.5)|(v[4]>.5)).flatten()
    x=torch.cat([fe.flatten(1)[:,b],g[:,None].half().expand(-1,int(b.sum()))]).T.float().numpy()
    p=np.zeros(b.numel(),np.float32); p[b.numpy()]=m.predict_proba(x)[:,1]
    res.append((p.reshape(v.shape[1:]),(y[0]>.5).numpy(),i,(y[1]>.3).numpy()))
pickle.dump(res,open("training/reader/gbm_val.pkl","wb"))
from scipy.ndimage import gaussian_filter
for s in (0,.7,1.0):
  for th in (.3,.5,.6,.7,.8):
    rows={}
    for p,t,i,br in res:
        q=(gaussian_filter(p,s) if s else p)*br>th; key=i["contrast"] if i["missing"]!="mri" else "ct"
        if not t.sum(): rows.setdefault("false",[]).append(q.sum()); continue
        x=2*(q&t).sum()/(q.sum()+t.sum()); rows.setdefault(key,[]).append(x); rows.setdefault("all",[]).append(x); rows.setdefault("miss_"+(i["missing"] or "none"),[]).append(x)
    print(s,th,{k:round(float(np.mean(v)),3) for k,v in rows.items()},flush=True)
